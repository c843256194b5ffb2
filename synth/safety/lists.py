"""Words that images are refused for, in many languages: abstract ones on purpose, as they catch what people write.

A `*` at the end stands for any ending, `_` for the space between the words of a phrase. Behind `|` stand words of scripts
that set no spaces, or attach endings without a mark: these are found anywhere. Raise `VERSION` with every change.
"""

from dataclasses import dataclass

VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Words:
    """One list, as it is compared.

    Args:
        exact: Whole words.
        stems: Beginnings of words.
        whole: Both, and beginnings with common endings; all that is looked for where a word was taken apart.
        long: Those of them that are long enough not to be made of pieces by chance.
        phrases: Several words in a row, with one space between.
        anywhere: Parts of a text without its spaces.
    """

    exact: frozenset[str]
    stems: tuple[str, ...]
    whole: frozenset[str]
    long: frozenset[str]
    phrases: tuple[str, ...]
    anywhere: tuple[str, ...]


SEXUAL = """
    sex sexes sexual* sexy sexier sexiest sexting nude nudes nudity nudist* nudism naked nakedness topless bottomless undress*
    unclothed clothesless clothless disrobe* unclad porn* pron erotic* erotis* hentai ecchi yaoi nsfw xxx xrated x_rated r18 rule34
    lewd* lascivious obscen* fetish* bdsm orgasm* orgy orgies masturbat* intercourse coitus genital* penis penises vagina* vulva*
    striptease stripper* strip_club seductive* sensual* lust lustful* smut smutty kinky horny voyeuris* upskirt* prostitut* brothel*
    rape raped rapes rapist* raping incest* pedo pedophil* paedo paedophil* jailbait loli lolis lolicon shota shotacon csam
    full_frontal in_the_buff birthday_suit bare_breast* barebreasted private_parts adult_content adult_film adult_video
    sexo desnud* nudismo pornograf* pornograph* erotica eroticas erotico eroticos encuerad* sexuales
    nue nues nus nudite denudee* denude_femme femme_nu homme_nu corps_nu entierement_nu erotique* erotisme sexe sexuel*
    nackt* nackig fkk sexuell* erotik* unbekleidet* entbloess* entbloss* splitternackt
    pelad* nudo nuda nudi nudita svestit* sesso sessual* erotici erotiche nua nuas nudez pelada despid* sexuais
    naakt* bloot_lijf ontkleed* seksue* seks erotisch* naken nakna naket nakenhet noegen nøgen nøgne nakne alaston alasti*
    nagie nagiej nagich nagosc naga_kobieta naga_osoba nagi_mezczyzna rozebran* erotyczn* roznegliz*
    голый голая голые голую голой голого голых голыми обнажен* раздет* секс* порно* порнограф* эротик* эротич* интим* непристойн*
    гола голі голий голої оголен* роздягнен* еротик* еротич* порногр* непристойн*
    ciplak* çıplak* mustehcen* müstehcen* cinsel* erotizm soyunmus
    telanjang* bugil* porno* cabul mesum khoa_than khieu_dam tinh_duc hubad
    γυμν* πορν* σεξ σεξουαλικ* ερωτικ*
    עירום ערום ערומה עירומה ערומים פורנו* פורנוגרפ* סקס* ארוטי* מיני מינית
    عاري عارية عراة عاريات اباحي* جنسي جنسية بورنو برهنه لخت پورن* سکسی
    नग्न नग्नता नंगा नंगी नंगे अश्लील* सेक्स कामुक यौन নগ্ন উলঙ্গ অশ্লীল
    | 裸 色情 情色 性爱 性愛 性交 淫 成人影片 成人视频 エロ ヌード 全裸 性的 ポルノ わいせつ 卑猥 セックス
    누드 나체 알몸 벌거벗 섹스 포르노 야동 음란 야한 에로틱 เปลือย โป๊ ลามก
"""
MINORS = """
    child childs children childrens childlike kid kids kiddo* minor minors underage underaged teen teens teenage teenaged teenager*
    preteen* tween tweens toddler* infant infants baby babies newborn* juvenile juveniles adolescen* schoolgirl* schoolboy*
    schoolchild* schoolkid* preschooler* kindergart* boy boys girl girls lad lass youngster* schooler* not_an_adult not_adult no_adult
    not_yet_an_adult not_of_age not_yet_of_age not_grown_up barely_legal elementary_school primary_school middle_school
    high_school_student grade_schooler first_grader second_grader third_grader fourth_grader fifth_grader sixth_grader
    nino ninos nina ninas menor_de_edad menores adolescente* bebe bebes infantil infantiles crianca criancas menino meninos menina meninas
    kinder kindes kindern ein_kind das_kind dem_kind kindlich* verletztes_kind madchen maedchen kleiner_junge junge minderjahrig*
    minderjaehrig* saugling* saeugling* kleinkind* jugendlich* schulkind*
    enfant enfants mineur mineurs mineure mineures fillette* garconnet* petite_fille petit_garcon bambin* minorenn* ragazzina ragazzino
    neonat* bimbo bimba bimbi kinderen een_kind het_kind gewond_kind meisje* jongen jongens jongetje* minderjarig* kleuter* peuter*
    dziecko dziecka dzieci dziewczynk* chlopiec chłopiec chlopc* chłopc* nieletni* niemowle* niemowlę*
    ребенок ребенка дети детей детям девочк* мальчик* несовершеннолетн* подрост* младен* школьни* дитина дитини діти дітей дівчин*
    хлопчик* неповнолітн* немовля* підліт*
    cocuk* çocuk* bebek* resit_olmayan* kucuk_kiz
    anak anak-anak anak_anak bayi remaja di_bawah_umur tre_em đua_tre đứa_trẻ đua_be em_be be_gai be_trai vi_thanh_nien
    barnet barnen flicka flickor pojke pojkar minderarig* tonaring* ett_barn skadat_barn et_barn lapsi lapsen lapset
    παιδι παιδια παιδιου παιδιων κοριτσι* αγορι* ανηλικ* μωρο
    ילד ילדה ילדים ילדות קטין קטינה קטינים תינוק* נער נערה
    طفل طفلة طفله اطفال الاطفال قاصر قاصرة رضيع كودك کودک کودکان بچه صبي
    बच्चा बच्चे बच्चों बच्ची नाबालिग लड़की लड़का शिशु শিশু বাচ্চা
    | 儿童 兒童 孩子 小孩 女孩 男孩 婴儿 嬰兒 幼儿 幼女 未成年 少女 少年 小学生 中学生 高校生 学童 子供 子ども こども 児童 幼児 園児
    赤ちゃん 女の子 男の子 어린이 아이 아동 미성년 소녀 소년 아기 유아 เด็ก ทารก
"""
HARM = """
    harm harms harmed harming hurt hurts hurting injur* wound* bleed* bloody blood beat beaten beating beats abuse*
    abusing abusive kill* murder* dead death dying corpse* tortur* attack* stab stabs stabbed stabbing gunshot* strangl*
    choke* choking starv* violen* gore gory bruis* victim* assault* kidnap* abduct* gagged chained hostage* suicid*
    selfharm drown* molest* groom grooming traffick* exploit* slap* punch* bully* bullied threat* burned maltreat* mistreat*
    herid* sangr* golpead* maltrat* muert* tortura* asesin* violenc* ferid* espanc* mort* abusad* sangue
    bless* sang battu* batu* maltrait* tue tuee assassin* verletzt* blut* misshandel* geschlagen tot tote gefoltert gequalt getotet
    ferito ferita feriti ferite sanguinant* picchiat* maltrattat* uccis* torturat* gewond* bloed* mishandel* geslagen dood
    ranne ranny ranna rany krew krwaw* pobit* zabit* torturow*
    ранен* кров* избит* убит* пытк* мертв* насили* поранен* побит* катуван*
    yarali* yaralı* kanli kanlı kanayan dovulm* dövülm* oldurul* öldürül* iskence* işkence*
    terluka berdarah disiksa dipukul bi_thuong chay_mau bi_đanh skadat skadad blodig* misshandla* slagen dod död
    τραυματισμεν* αιμα* αιμορραγ* κακοποιημεν* νεκρ*
    פצוע פצועה פצועים מדמם מוכה הרוג الجريح جريح جريحة جرحى دم ينزف معذب مقتول زخمی خون
    घायल खून मारा पीटा हत्या আহত রক্ত
    | 受伤 受傷 流血 血 虐待 暴力 殴打 毆打 杀 殺 伤害 傷害 怪我 負傷 拷問 다친 다쳤 피투성이 피를 학대 폭력 살해 부상 บาดเจ็บ เลือด
"""
WEAPONS = """
    knife knives blade blades gun guns pistol* rifle* shotgun* firearm* weapon* sword* machete* bomb* grenade* explosive*
    pistola* cuchillo* arma armas fusil* faca facas couteau* arme armes messer pistole* waffe waffen gewehr* coltello* coltelli
    mes messen pistool wapen* noz noza nóż pistolet* pistoletem bron нож ножом ножа пистолет* пістолет* оружи* ружь* ніж ножем
    зброя зброєю bicak* bıçak* silah* tabanca* pisau pistol senjata senapan dao sung súng knivar kniv* vapen vapnet μαχαιρι*
    οπλο οπλα οπλου πιστολι* סכין אקדח רובה נשק بندقية مسدس سكين سلاح سلاح چاقو تفنگ बंदूक चाकू हथियार বন্দুক ছুরি
    | 刀 枪 槍 武器 银弹 銃 剣 ナイフ 총을 총과 권총 칼을 칼과 무기 ปืน มีด
"""
VICES = """
    cigarette* cigar cigars vape* vaping smoking smoke smokes alcohol* beer beers wine whisky whiskey vodka liquor drunk drug
    drugs cocaine heroin syringe* needle needles pill pills gambl* cerveza cigarrillo* droga* cerveja cigarro* biere drogue*
    bier zigarette* droge drogen birra sigarett* piwo papieros* пиво сигарет* наркотик* sigara* bira bir rokok ol öl cigarett*
    μπυρα τσιγαρο* סיגריה خمر سيجارة शराब सिगरेट
    | 酒 烟 煙草 毒品 煙 タバコ ビール 담배 맥주 술을 เหล้า
"""
UNDRESS = """
    bikini* lingerie underwear panties bra bras swimsuit* swimwear shirtless bathing bath shower showering seduc* kiss*
    provocative* suggestive* flirt* intimate* voluptuous curvy cleavage stocking stockings barechested bare_chest*
    ropa_interior traje_de_bano maillot_de_bain sous-vetement* sous_vetement* unterwasche badeanzug* costume_da_bagno biquini*
    | 泳装 泳衣 内衣 水着 下着 수영복 속옷
"""
INVERTING = """
    clothes clothing clothed clothe dress dressed garment* censor* sfw adult adults grownup* grown_up mature elderly
    ropa vestid* adulto adultos adulta vetement* habille* adulte adultes kleidung angezogen bekleid* erwachsen* abiti vestiti
    roupa* kleding kleren volwassen* ubrani* doros* одежд* взросл* kiyafet* yetiskin* pakaian dewasa klader vuxen*
    | 衣服 成人 大人 服を 옷 성인 어른
"""

# Clothes, and what takes them away; a few words may stand between.
CLOTHES = r"(?:clothes|clothing|garments?|outfits?|apparel|attire)"
WEARS = r"(?:wear(?:s|ing)?|dressed|clad|clothed)"
UNCLOTHED = (
    rf"\b(?:without|no|lacks?|lacking|minus|sans|free of|devoid of|lost|stripped of)(?: \w+){{0,2}} {CLOTHES}\b",
    rf"\b(?:not|never|isnt|arent|wasnt|doesnt|dont|hardly|barely) (?:\w+ )?{WEARS}(?: \w+){{0,2}} (?:{CLOTHES}|anything)\b",
    rf"\b{WEARS}(?: \w+)? (?:nothing|only a smile)\b",
    rf"\b(?:tak(?:es?|ing|en)|took|pull(?:s|ed|ing)?|remov(?:es?|ed|ing)|shed(?:s|ding)?)(?: \w+){{0,3}} {CLOTHES}\b",
    rf"\b{CLOTHES}(?: \w+)? (?:taken off|removed|pulled off|off|free)\b",
    r"\b(?:not|never|barely|hardly) (?:dressed|clothed)\b",
    r"\bsin ropa\b|\bsem roupas?\b|\bsans (?:vetements?|habits)\b|\bohne (?:\w+ )?(?:kleid\w*|bekleidung)\b|\bsenza (?:vestiti|abiti)\b",
    r"\bzonder (?:kleren|kleding)\b|\bbez (?:ubran\w*|odziezy)\b|\bбез (?:одежды|одягу)",
    r"\bkıyafetsiz|\bkiyafetsiz|\btanpa (?:busana|pakaian)",
    r"\bkhong mac (?:quan ao|đo)|\butan klader|\bχωρισ ρουχα|בלי בגדים|ללא בגדים|بدون ملابس|بلا ملابس|بدون لباس|बिना कपड",
    r"(?:没穿|沒穿|不穿|脱掉|脫掉|脱光)\s?(?:了|掉)?\s?(?:衣|任何)|服を(?:着て(?:い)?ない|脱)|옷을 ?(?:입지|벗)|ไม่ใส่เสื้อ",
)

# Phrases that are cut out before words are compared, as they mean something else.
_ENDS = r"(?=\s*(?:$|[,.;:)\]]|\b(?:of|in|on|at|and|or|with|by|from|under|beside|near|for|to|is|are|over|style)\b))"
_DRINK = r"(?:whisk(?:e?y|ies)|wines?|rum|brandy|scotch|bourbon|cognac|cheese|vinegar|port|cheddar|parmesan)"
HARMLESS = (
    r"\bnude[\s-]*(?:colou?r(?:ed)?|tone[ds]?|shades?|lipsticks?|heels|nail (?:polish|varnish)|palette|beige)\b",
    rf"\b(?:to|with|for) the naked eye\b{_ENDS}",
    rf"\bnaked (?:mole[\s-]*rats?|flames?|cakes?|lights?|wires?|bulbs?|trees?|branches){_ENDS}",
    rf"\b(?:topless|bottomless) (?:bus(?:es)?|towers?|cars?|brunch|cups?|pits?|baskets?){_ENDS}",
    r"\b(?:wire|paint|cable|insulation|varnish|floor|wallpaper)[\s-]*strippers?\b",
    r"\bsex of the (?:chickens?|chicks?|birds?|animals?|plants?|fish|bees?|crabs?)\b|\b(?:same|single|opposite|mixed)[\s-]sex\b",
    r"\b(?:oilseed|oil seed) rape\b|\brape[\s-]*(?:seed|field|flower)s?\b|\bof intercourse, pennsylvania\b",
    r"\bnudo (?:marinero|corredizo|llano|de (?:corbata|cuerda|zapato|rizo))\b",
    r"\b(?:tomates?|patatas?|papas?|almendras?|ajos?|huevos?|naranjas?) pelad[ao]s?\b",
    r"\b(?:pieds|mains|bras|jambes) nue?s\b|\btete nue\b|\bl ?oeil nu\b|\blœil nu\b",
    r"裸眼|裸麦|裸麥|裸子植物|裸露的?(?:岩|土|地|电线|電線|砖)|누드(?:김밥|톤)|エロイカ",
    r"\bminor (?=(?:scratch(?:es)?|damages?|wear|injur(?:y|ies)|wounds?|cuts?|burns?|bruises?|bleeding (?:of|from|gums?)|details?|changes?|"
    r"issues?|defects?|dents?|cracks?|flaws?|repairs?|accidents?|chords?|keys?|scale|league|chips?|stains?|blemish(?:es)?|imperfections?)\b)",
    r"\b(?:chord|key|scale|sonata|symphony|prelude) (?:in|of) [a-g] minor\b",
    r"\basexual\w*|\btherapists?\b|\brapp(?:ed|ing|ers?)\b",
    r"\b(?:child|childs|children|childrens|kids?|baby)[\s_-]*(?:proof|resistant|safe|safety|locks?)\w*",
    r"\bbaby[\s_-]+(?:blue|pink|carrots?|corn|spinach|potato(?:es)?|tomato(?:es)?|greens|leaf|leaves|grand|shower|powder|oil|wipes?|monitors?)\b",
    r"\bkid[\s-]+(?:leather|gloves?|skin)\b|\bboy scout (?:badges?|knife|knives)\b|\bbaby.?s breath\b",
    r"\b(?:glue|water|heat|nail|spray|staple|caulk(?:ing)?)[\s-]+guns?\b|\bblades? of grass\b",
    r"\b(?:pine|knitting|spruce|fir) (?:tree )?needles?\b",
    r"\bpine trees? with (?:long |short )?needles\b|\bsmoke (?:detector|alarm)s?\b",
    r"\bbath[\s-]*(?:bombs?|mats?|tubs?|towels?)\b|\bbird bath\b",
    r"\bshower (?:curtain|head|cap|gel)s?\b|\bno smoking\b|\bdead (?:end|sea|line|bolt)\b|\bto the beat\b",
    rf"\b{_DRINK}(?:,| that is| is)? aged (?:\w+ )?\d+ (?:years?|months?)(?: old)?\b",
    rf"\b\d+[\s-]*years?[\s-]*old[\s-]+(?:single malt |malt |red |white )*{_DRINK}\b",
    rf"\b{_DRINK} \d+ ans\b",
    r"\b\d+[\s-]*(?:years?|months?|weeks?|days?)[\s-]*old[\s-]+(?:cars?|trees?|houses?|buildings?|bridges?|bottles?|laptops?|computers?|phones?|"
    r"knife|knives|guns?|dogs?|cats?|horses?|chairs?|tables?|books?|lamps?|bikes?|bicycles?|cheese|bread|newspapers?)\b",
)

YEARS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
}  # fmt: skip
_N = rf"(\d{{1,2}}|{'|'.join(YEARS)})"
AGES = (
    rf"\b{_N}[\s_-]*(?:years?|yrs?|months?|weeks?|days?)[\s_-]*(?:olds?|of age|young)\b",
    rf"\b{_N}\s*[-_]?\s*(?:yo|y\s*[/.]\s*o|yrs?)\b",
    rf"\b(?:aged|age|ages)\s*(?:of|is|:|=)?\s*{_N}\b(?!\s*(?:months? in|years? in))",
    rf"\b(?:boy|girl|kid|lad|child) of {_N}\b",
    rf"\b(?:nino|nina|ninos|enfant|fille|garcon|crianca|menina|menino) (?:de|d) {_N}\b",
    rf"\b{_N} (?:anos|ans)\b(?: de edad| de idade| dage)?",
    rf"\b{_N}[\s-]?(?:jahre alt|jahrig\w*|jaehrig\w*|jaar oud|jarig\w*|anni\b|lat\b|yasind\w*|tahun|tuoi|ar gammal)",
    rf"{_N} ?(?:лет|года|годик\w*|рок[иі]\w*|років|歳|才の|岁|歲|살|세의|χρονων|שנים|سنوات|سنة|साल|वर्ष)",
)
UNDER = (
    r"\b(?:under|below|less than|younger than|not yet|not even|almost|nearly)\s*(?:18|17|16|15|14|13|12|eighteen|seventeen|sixteen)\b"
    r"|<\s*18\b|\bu18\b"
)
